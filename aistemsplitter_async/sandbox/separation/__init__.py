"""Signal processing: real stems, a demo song, and how good stems are.

It imports nothing of the sandbox. The service runs it as a child process and takes only its constants and silence; the
command line takes the demo song and its measures.
"""
