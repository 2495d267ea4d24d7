"""The API as values: messages, operations, replies, URLs, dates, credentials, signatures. Pure."""
