"""A wide area on one machine: hosts in namespaces, delayed and narrowed packets between them, and faults on demand."""
