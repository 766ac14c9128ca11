"""The policy and the reward model as one pair."""
