"""Callbacks for other people's training loops, a module for each library; all optional extras."""
