"""The estimate of what a generation will still cost in calls, tokens, money, time and disk."""
