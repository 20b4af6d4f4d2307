"""Online DPO: DPO on the policy's own samples, the best of a prompt against the worst by a reward.

Departs from the paper in the annotator (a reward of the data set or of a model; the paper asks a language model which
of two samples is better) and in the number of samples (four; `sampling.num_generations=2` is the paper's).
"""

from methods.catalogue import method
from methods.dpo import DPO
from methods.protocols import Method, Sampling
from registry import Paper

PAPER = Paper(title="Direct Language Model Alignment from Online AI Feedback", arxiv="2402.04792", year=2024)
SAMPLES = Sampling(num_generations=4, keep="pair")

method("online_dpo", Method(DPO(), sampling=SAMPLES), PAPER, lr=5e-7, note="best against worst of four samples")
