"""What an export costs beside torch's own, and what a mixture of experts costs in the file."""
