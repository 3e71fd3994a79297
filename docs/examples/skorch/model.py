"""The model of the examples in PyTorch, for skorch; it takes integer labels of 64 bits."""

import digits
import torch
from digits import x_held, x_test, x_train

y_train, y_held, y_test = (
    labels.astype("int64") for labels in (digits.y_train, digits.y_held, digits.y_test)
)
__all__ = ["Network", "x_held", "x_test", "x_train", "y_held", "y_test", "y_train"]


class Network(torch.nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.hidden, self.head = torch.nn.Linear(64, width), torch.nn.Linear(width, 10)
        for layer in (self.hidden, self.head):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            torch.nn.init.zeros_(layer.bias)

    def forward(self, x):
        return self.head(torch.relu(self.hidden(x)))
