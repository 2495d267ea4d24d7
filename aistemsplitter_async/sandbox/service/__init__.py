"""What the service does: accounts, uploads, splits, jobs, the ledger. It knows no HTTP."""
