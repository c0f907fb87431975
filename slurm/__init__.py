"""Jobs on a SLURM cluster: submit, requeue, sweep, chain, report; imports no torch, so that login nodes need none."""
