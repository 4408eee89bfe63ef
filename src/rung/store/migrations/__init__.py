"""Steps from one state of the tables to the next, in `versions/`, run by Alembic when a database is opened."""
