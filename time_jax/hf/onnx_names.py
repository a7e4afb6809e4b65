"""Names of ONNX files, and of what goes into them and comes out.

They are those that transformers.js, optimum and fastembed look for, except what
a parser has beyond them.
"""

FOLDER = "onnx"
# Earlier exports have model_int8.onnx, which `verify` finds in their record.
PLAIN, INT8 = "model.onnx", "model_quantized.onnx"
BESIDE = "_data"  # ends the name of a file with weights that stand beside one
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
STATES = ("last_hidden_state",)
LOGITS = ("logits",)
PLACES = ("start_logits", "end_logits")

# Of a parser: a second graph, in float32, computes the relations to the heads
# that were found in between, from what the first one gives of words.
RELATIONS = "relations.onnx"
OWNERS = "word_of_token"  # see `word_network.WordBatch`
ARCS = "arcs"
AS_DEPENDENTS, AS_GOVERNORS = "dependents", "governors"
HEADS = "heads"
