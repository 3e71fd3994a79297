"""Rate x width x seeds as a table."""

from model import network, splits

from jaxdl import losses, metrics, optimizers, training


def member(key, orders, rate, width):
    task = training.Task(network(width), losses.cross_entropy, [metrics.accuracy])
    run = training.make_run(task, optimizers.adam(rate), batch_size=32)
    return run(key, splits, orders)[1]["test"]


runs = training.sweep(
    member, {"rate": [1e-3, 1e-2], "width": [32, 64]}, seeds=3, static=["width"],
    by_seed={"orders": lambda key: training.orders(key, 10, len(splits["train"][0]))},
)  # fmt: skip
print(runs.accuracy[..., -1].to_dataframe("accuracy").unstack())
