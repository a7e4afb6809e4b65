"""What a step costs on TPUs that are not here, from its compiled program."""
