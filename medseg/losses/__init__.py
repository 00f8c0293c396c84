"""What training minimizes: Dice with cross entropy, over labels or over regions."""
