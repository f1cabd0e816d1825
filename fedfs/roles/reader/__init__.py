"""The reader: accepted messages as status, log, report, audit and model folder."""
