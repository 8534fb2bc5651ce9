"""What configs/paper.py trains and scores, by preset."""
