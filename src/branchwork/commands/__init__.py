"""The sub-commands of `branchwork`; each module imports what it needs when it is called."""
