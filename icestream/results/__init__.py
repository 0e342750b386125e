"""Results as a table (its Arrow schema, once), what is read from the table, and its pictures. Used by recorder, launcher and export."""
