"""Files that run fedfs on a host, and the policies of a study's bucket."""
