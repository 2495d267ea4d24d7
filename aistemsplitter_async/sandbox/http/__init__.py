"""HTTP around the service: three origins, requests decoded, answers encoded, faults put into effect, webhooks sent.

Statuses, headers and envelopes are decided here. The room imports `service` and what is below it; `control` and
`origins` may import it.
"""
