"""How good a policy is and whether it may be used: blind evaluations, the table of policies, the gate, lineage."""
