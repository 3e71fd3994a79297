"""Rate x width x seeds as a table."""

import itertools

import pandas as pd
import torch
from model import Network, x_test, x_train, y_test, y_train
from skorch import NeuralNetClassifier

rows = []
for rate, width, seed in itertools.product([1e-3, 1e-2], [32, 64], range(3)):
    torch.manual_seed(seed)
    net = NeuralNetClassifier(
        Network, module__width=width, criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam, lr=rate, max_epochs=10, batch_size=32, verbose=0,
        train_split=None,
    )  # fmt: skip
    accuracy = net.fit(x_train, y_train).score(x_test, y_test)
    rows.append({"rate": rate, "width": width, "seed": seed, "accuracy": accuracy})
print(pd.DataFrame(rows).pivot(index=["rate", "width"], columns="seed", values="accuracy"))
