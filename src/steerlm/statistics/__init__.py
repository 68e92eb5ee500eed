"""Figures and their intervals: estimates, agreement, rankings, length control; numpy and scipy only."""
