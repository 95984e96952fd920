"""The processes of Rejoinder. They meet on the log and never import each other."""
