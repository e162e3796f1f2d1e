"""What we write, loaded by the libraries it is written for (extra ``reference``)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sentencepiece
from flax import linen as nn

from clip_jax import config as config_lib
from clip_jax import convert, pretrained
from clip_jax.interop import tree
from clip_jax.interop.formats import hugging_face
from clip_jax.interop.mapping import export_tensors
from clip_jax.interop.write import write
from clip_jax.losses import softmax_dense
from clip_jax.models.clip import ClipModel
from clip_jax.models.text import TextConfig
from clip_jax.tokenizers import ClipTokenizer, SigLipTokenizer
from clip_jax.training import optim

torch = pytest.importorskip("torch", reason="needs pip install '.[reference]'")
transformers = pytest.importorskip("transformers", reason="needs pip install '.[reference]'")
pytestmark = pytest.mark.reference


def inputs(config, n=5):
    rng = np.random.default_rng(3)
    size = config.vision.image_size
    images = rng.normal(size=(n, size, size, 3)).astype(np.float32)
    tokens = rng.integers(2, 90, (n, config.text.context_length)).astype(np.int32)
    if config.text.causal:
        tokens[:, -3] = config.text.eot_id
        tokens[:, -2:] = 0
    return images, tokens


def ours(weights, images, tokens):
    with jax.default_matmul_precision("highest"):
        out = jax.jit(ClipModel(weights.config).apply)(dict(weights.variables), images, tokens)
    logits = out.logit_scale * out.image_emb @ out.text_emb.T
    return np.asarray(logits if out.logit_bias is None else logits + out.logit_bias)


def quiet(made):
    """Random weights of a size at which a Transformer is well conditioned."""
    rng = np.random.default_rng(4)
    variables = jax.tree.map(
        lambda x: np.asarray(0.1 * rng.normal(size=x.shape), np.float32), dict(made.variables)
    )
    variables["params"]["logit_scale"] = np.float32(1.5)
    return variables


@pytest.mark.parametrize(
    ("name", "kind"), [("vit", "CLIPModel"), ("gelu", "CLIPModel"), ("siglip", "SiglipModel")]
)
def test_hugging_face_gives_the_same_logits(made, tmp_path, name, kind):
    weights = dataclasses.replace(made(name), variables=quiet(made(name)))
    folder = write(tmp_path / "hf", weights, "hugging_face")
    model, report = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    images, tokens = inputs(weights.config)
    with torch.no_grad():
        out = model.eval()(
            input_ids=torch.tensor(tokens).long(),
            pixel_values=torch.tensor(images.transpose(0, 3, 1, 2)),
        )
    np.testing.assert_allclose(
        ours(weights, images, tokens), out.logits_per_image.numpy(), atol=2e-5, rtol=0
    )


@pytest.mark.parametrize("name", ["vit", "gelu"])
def test_gradients_and_ten_adamw_steps(made, tmp_path, name):
    """The same model trained by torch and by our own train step, from the same numbers."""
    config = made(name).config
    images, tokens = inputs(config, 8)
    model = ClipModel(config)
    # As a run begins: pairs that all look alike would leave rounding for a gradient.
    variables = nn.unbox(jax.jit(model.init)(jax.random.key(0), images, tokens))
    weights = dataclasses.replace(made(name), variables=jax.device_get(variables))
    folder = write(tmp_path / "hf", weights, "hugging_face")
    entries = hugging_face.entries(weights.config)
    theirs = transformers.CLIPModel.from_pretrained(folder)
    pixels, ids = torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(tokens).long()
    gains = [p for n, p in theirs.named_parameters() if _undecayed(n)]
    others = [p for n, p in theirs.named_parameters() if not _undecayed(n)]
    # A smaller epsilon would make full steps of gradients that are rounding alone.
    adamw = torch.optim.AdamW(
        [{"params": gains, "weight_decay": 0.0}, {"params": others, "weight_decay": 0.2}],
        lr=1e-3, betas=(0.9, 0.98), eps=1e-4,
    )  # fmt: skip
    c = config_lib.defaults().optim
    c.update(learning_rate=1e-3, beta1=0.9, beta2=0.98, eps=1e-4, weight_decay=0.2)
    tx = optax.chain(
        optim.OPTIMIZERS["adamw"](c, 0),
        optax.add_decayed_weights(c.weight_decay, optim.decay_mask("paper")),
        optax.scale_by_learning_rate(1e-3),
    )

    @jax.jit
    def ours(params, opt_state):
        def loss(params):
            out = model.apply({"params": params}, images, tokens)
            return softmax_dense(out.image_emb, out.text_emb, out.logit_scale)[0]

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return value, grads, optax.apply_updates(params, updates), opt_state

    params = jax.tree.map(jnp.asarray, weights.variables["params"])
    opt_state = tx.init(params)
    with jax.default_matmul_precision("highest"):
        for step in range(10):
            adamw.zero_grad()
            want = theirs(input_ids=ids, pixel_values=pixels, return_loss=True).loss
            want.backward()
            value, grads, params, opt_state = ours(params, opt_state)
            assert float(value) == pytest.approx(want.item(), rel=2e-5)
            if step == 0:
                named = {n: p.grad.numpy() for n, p in theirs.named_parameters()}
                _assert_close(export_tensors({"params": jax.device_get(grads)}, entries), named)
            adamw.step()
    named = {n: p.detach().numpy() for n, p in theirs.named_parameters()}
    _assert_close(export_tensors({"params": jax.device_get(params)}, entries), named)


def _assert_close(tensors, want):
    """Within 1e-4 of the largest number of each."""
    for key, value in want.items():
        if not key.endswith("k_proj.bias"):  # a softmax does not see it: only rounding
            atol = 1e-4 * np.abs(value).max()
            np.testing.assert_allclose(tensors[key], value, atol=atol, rtol=0, err_msg=key)


def _undecayed(name):
    return name.endswith("bias") or "norm" in name or "logit_scale" in name or "class_emb" in name


def test_a_runs_checkpoint_gives_the_same_logits(trainer, tmp_path):
    """From training to transformers: workdir, conversion, its tokenizer and model there."""
    code, output = trainer.run(
        tmp_path / "run", "tokenizer.name=clip", "train.examples=64", "eval.evaluators=()",
        "log.report=False", "log.tensorboard=False", "optim.warmup_examples=0",
    )  # fmt: skip
    assert code == 0, output
    folder = tmp_path / "hf"
    assert convert.main([str(tmp_path / "run"), str(folder), "--to=hugging_face"]) == 0
    theirs = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    clip = pretrained.find(tmp_path / "run")
    images, _ = inputs(clip.config)
    texts = ["a red circle", "a blue square", "a cat"]
    ids = tokenizer(texts, padding="max_length", return_tensors="pt", max_length=12)["input_ids"]
    with torch.no_grad():
        pixels = torch.tensor(images[:3].transpose(0, 3, 1, 2))
        want = theirs(input_ids=ids, pixel_values=pixels).logits_per_image.numpy()
    found = ours(clip, images[:3], clip.tokenizer(texts))
    np.testing.assert_allclose(found, want, atol=2e-5, rtol=0)


def test_the_tokenizer_travels(tmp_path, made):
    config = dataclasses.replace(made("vit").config, text=TextConfig(64, 2, 1, 16, 49408, 49407))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda s: rng.normal(size=s.shape).astype(np.float32), tree.shapes(config)
    )
    model = dataclasses.replace(
        made("vit"), config=config, variables=variables, tokenizer=ClipTokenizer(16)
    )
    folder = write(tmp_path / "hf", model, "hugging_face")
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    texts = ["a photo of a cat", "Ein Haus, 42 Bäume!", "", "日本 🎉 naïve café's"]
    for text, row in zip(texts, model.tokenizer(texts), strict=True):
        ids = row[: int(np.argmax(row == 49407)) + 1].tolist()
        assert theirs(text)["input_ids"] == ids, text


def test_siglips_tokenizer(tmp_path):
    captions = [f"{a} {b} on the {c}" for a in ["red", "blue"] for b in ["cat", "dog"]
                for c in ["mat", "log", "car", "house"]]  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions), model_prefix=str(tmp_path / "spiece"), vocab_size=60,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False,
    )  # fmt: skip
    ours = SigLipTokenizer(tmp_path / "spiece.model", 12)
    theirs = transformers.SiglipTokenizer(str(tmp_path / "spiece.model"), model_max_length=12)
    texts = ["Red cat on the MAT.", "blue,  dog!", "", "a house; the car?"]
    want = theirs(texts, padding="max_length", truncation=True)["input_ids"]
    np.testing.assert_array_equal(ours(texts), want)


def test_open_clip_gives_the_same_logits(made, tmp_path):
    open_clip = pytest.importorskip("open_clip", reason="needs pip install '.[reference]'")
    weights = dataclasses.replace(made("gelu"), variables=quiet(made("gelu")))
    folder = write(tmp_path / "oc", weights, "open_clip")
    model = open_clip.create_model(f"local-dir:{folder}")
    images, tokens = inputs(weights.config)
    with torch.no_grad():
        image, text, scale = model.eval()(
            torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(tokens).long()
        )
    want = (scale * image @ text.T).numpy()
    np.testing.assert_allclose(ours(weights, images, tokens), want, atol=2e-5, rtol=0)


def test_torch_loads_what_we_write(made, tmp_path):
    """A state dict in OpenAI's layout, through torch's own restricted loader."""
    weights = made("resnet")
    path = write(tmp_path / "model.pt", weights, "openai", "float16")
    found = torch.load(path, weights_only=True)
    assert found["visual.conv1.weight"].dtype == torch.float16
    assert jnp.asarray(found["logit_scale"].numpy()) == weights.variables["params"]["logit_scale"]
