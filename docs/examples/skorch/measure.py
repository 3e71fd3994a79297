"""F1 and AUC of each epoch in a CSV, and the confusion matrix."""

import pandas as pd
import torch
from model import Network, x_held, x_test, x_train, y_held, y_test, y_train
from sklearn.metrics import confusion_matrix
from skorch import NeuralNetClassifier
from skorch.callbacks import EpochScoring
from skorch.dataset import Dataset
from skorch.helper import predefined_split

torch.manual_seed(0)
net = NeuralNetClassifier(
    Network, criterion=torch.nn.CrossEntropyLoss, optimizer=torch.optim.Adam, lr=1e-3,
    max_epochs=20, batch_size=32, verbose=0, train_split=predefined_split(Dataset(x_held, y_held)),
    callbacks=[EpochScoring("f1_macro", name="f1"), EpochScoring("roc_auc_ovr", name="auc")],
)  # fmt: skip
net.fit(x_train, y_train)
columns = ["epoch", "train_loss", "valid_loss", "f1", "auc"]
frame = pd.DataFrame(net.history[:, columns], columns=columns)
frame.to_csv("history.csv", index=False)
print(confusion_matrix(y_test, net.predict(x_test)))
