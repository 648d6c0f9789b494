"""Networks: what makes one self-explaining (`convert`), where they come from (`zoo`), how they are kept (`storage`)."""
