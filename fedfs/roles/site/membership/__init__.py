"""Test of what a site's own updates, and global versions, tell about its cases; stays here."""
