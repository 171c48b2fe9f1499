"""The program `ps-data`: fetches data sets from their publishers."""
