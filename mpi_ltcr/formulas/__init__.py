"""The papers' equations: tensors in, tensors out, and nothing of ours imported."""
