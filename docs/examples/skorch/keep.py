"""Checkpoint, resume, save, and load elsewhere."""

import torch
from model import Network, x_held, x_test, x_train, y_held, y_train
from skorch import NeuralNetClassifier
from skorch.callbacks import Checkpoint, LoadInitState
from skorch.dataset import Dataset
from skorch.helper import predefined_split

settings = {
    "criterion": torch.nn.CrossEntropyLoss, "optimizer": torch.optim.Adam, "lr": 1e-3,
    "batch_size": 32, "verbose": 0, "train_split": predefined_split(Dataset(x_held, y_held)),
}  # fmt: skip
for epochs in (5, 15):  # the second goes on with 15 more epochs; its shuffling begins anew
    torch.manual_seed(0)
    kept = Checkpoint(monitor=None, dirname="run")
    net = NeuralNetClassifier(
        Network, max_epochs=epochs, callbacks=[kept, LoadInitState(kept)], **settings
    )
    net.fit(x_train, y_train)
net.save_params(f_params="digits.pt")
loaded = NeuralNetClassifier(Network, **settings).initialize()
loaded.load_params(f_params="digits.pt")
print(loaded.forward(x_test[:3]))
