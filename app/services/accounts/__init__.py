"""Who may do what: accounts, passwords, tokens, the trail of what admins did."""
