"""What people bring (tables, folders, annotations, `datasets`) as WebDataset tars."""
