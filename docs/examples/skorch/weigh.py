"""Examples that count more than others: the eights count three times."""

import torch
from digits import weights
from model import Network, x_test, x_train, y_test, y_train
from skorch import NeuralNetClassifier


class Weighted(NeuralNetClassifier):
    def get_loss(self, y_pred, y_true, X=None, training=False):
        values = super().get_loss(y_pred, y_true, X, training)
        return (values * X["weight"]).sum() / X["weight"].sum() if training else values.mean()


class WithWeight(Network):
    def forward(self, x, weight=None):
        return super().forward(x)


torch.manual_seed(0)
net = Weighted(
    WithWeight, criterion=torch.nn.CrossEntropyLoss, criterion__reduction="none",
    optimizer=torch.optim.Adam, lr=1e-3, max_epochs=20, batch_size=32, verbose=0, train_split=None,
)  # fmt: skip
net.fit({"x": x_train, "weight": weights}, y_train)
print(net.score({"x": x_test}, y_test))
