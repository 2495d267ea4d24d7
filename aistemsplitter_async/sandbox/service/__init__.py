"""The service without HTTP: accounts and windows, uploads, splits, jobs, the ledger, and its files.

Values go in, values or a `ServiceError` come out. The room imports `separation` and `faults`; `http` and all above it
may import it.
"""
