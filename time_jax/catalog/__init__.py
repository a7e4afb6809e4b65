"""The tables of languages, teachers and corpora, and how they are listed."""
