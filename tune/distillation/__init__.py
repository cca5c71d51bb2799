"""Knowledge distillation: a student trains on the answers of a teacher (Hinton, Vinyals and Dean 2015)."""
