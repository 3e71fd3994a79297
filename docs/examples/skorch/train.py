"""Train, evaluate and predict."""

import torch
from model import Network, x_held, x_test, x_train, y_held, y_test, y_train
from skorch import NeuralNetClassifier
from skorch.dataset import Dataset
from skorch.helper import predefined_split

torch.manual_seed(0)
net = NeuralNetClassifier(
    Network, criterion=torch.nn.CrossEntropyLoss, optimizer=torch.optim.Adam, lr=1e-3,
    max_epochs=20, batch_size=32, verbose=0, train_split=predefined_split(Dataset(x_held, y_held)),
)  # fmt: skip
net.fit(x_train, y_train)
print(net.score(x_test, y_test))
print(net.predict_proba(x_test[:3]).round(2))
