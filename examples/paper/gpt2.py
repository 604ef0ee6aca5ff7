"""GPT-2 (Radford et al. 2019), 124 million parameters, the model class of the transformers library.

python -m examples.paper.gpt2 --data real --pretrained --out runs/gpt2.zarr
"""

from __future__ import annotations

import argparse
from typing import Any

from torch.nn.functional import cross_entropy

import gradlog
from examples.paper import data, session


def build(o: argparse.Namespace) -> tuple[Any, data.Text]:
    """Model and text; a token is a byte offline, and a piece of GPT-2's own vocabulary otherwise."""
    try:
        from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel
    except ImportError as error:
        raise SystemExit("gpt2 needs transformers: pip install '.[transformers]'") from error
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # an interrupted run can then be continued
    size = {"vocab_size": 256, "n_embd": 64, "n_layer": 2, "n_head": 2} if o.small else {}
    size |= {"bos_token_id": 0, "eos_token_id": 0} if o.small else {}
    try:
        if o.pretrained:
            model = GPT2LMHeadModel.from_pretrained("gpt2", **off)
        else:
            model = GPT2LMHeadModel(GPT2Config(**size, **off))
        if o.data == "offline":
            return model, data.manual(o.seed, o.length)
        tokenizer = AutoTokenizer.from_pretrained("gpt2")
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise SystemExit(f"cannot load gpt2 from its hub ({reason}); --data offline needs no network") from error
    return model, data.wikitext2(o.seed, o.length, tokenizer.encode)


def main(argv: list[str] | None = None, **options: Any) -> None:
    """Train; ``options`` go to ``gradlog.attach``."""
    parser = session.flags("gpt2", __doc__, batch=2, rates={"adamw": 5e-5})
    parser.add_argument("--pretrained", action="store_true", help="start from the published weights")
    parser.add_argument("--length", type=int, default=64, help="tokens a sequence")
    o = session.read(parser, argv)
    if o.pretrained and (o.small or o.data == "offline"):
        parser.error("--pretrained goes with --data real and without --small: its vocabulary is not of bytes")
    model, text = build(o)
    model.to(o.device).train()
    optimizer = session.optimizer_of(o, model)
    log = gradlog.attach(optimizer, o.out, model=model, **session.recording(o, text, options))
    for step in session.steps(o, model, optimizer, log):
        tokens = text.batch(0 if o.fixed_batch else step, o.batch).to(o.device)
        logits = model(input_ids=tokens).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log.annotate(loss=loss.item(), batch_size=len(tokens))


if __name__ == "__main__":
    main()
