"""What is wrong with the files of a folder, and copies mended where that is certain."""
