"""Named in `import_first`: must be there before the application is imported."""
