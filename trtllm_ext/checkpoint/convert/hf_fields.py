"""Fields of a Hugging Face config.json that say nothing about what an encoder computes at inference."""

_BOOKKEEPING = """
architectures model_type transformers_version torch_dtype dtype tokenizer_class name_or_path finetuning_task
task_specific_params problem_type id2label label2id num_labels language adapters prefix
"""
_TRAINING = """
attention_probs_dropout_prob hidden_dropout_prob classifier_dropout initializer_range gradient_checkpointing
attn_implementation use_bfloat16 torchscript tf_legacy_loss
"""
_CALLING_AND_GENERATION = """
output_attentions output_hidden_states output_past return_dict use_return_dict use_cache tie_word_embeddings
keys_to_ignore_at_inference tie_encoder_decoder cross_attention_hidden_size decoder_start_token_id
remove_invalid_values pad_token_id bos_token_id eos_token_id sep_token_id mask_token_id cls_token_id unk_token_id
max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
num_return_sequences output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id
exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
"""
# Written by the first release of multilingual BERT; no BertModel reads them.
_NEVER_READ = """
directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type
"""

HF_FIELDS_WITHOUT_MATHS = frozenset(
    (_BOOKKEEPING + _TRAINING + _CALLING_AND_GENERATION + _NEVER_READ).split()
)

_ATTENTION = """
num_attention_heads num_key_value_heads head_dim attention_bias attention_dropout attention_softmax_in_fp32 qkv_bias
use_sliding_window sliding_window max_window_layers layer_types use_qk_norm qk_layernorm query_pre_attn_scalar
attn_logit_softcapping sliding_window_pattern use_bidirectional_attention scale_attn_weights
scale_attn_by_inverse_layer_idx reorder_and_upcast_attn attn_pdrop n_head num_heads pruned_heads
"""
_POSITIONS = """
max_position_embeddings n_positions n_ctx rope_theta rope_scaling rope_parameters rope_local_base_freq rotary_dim
rotary_pct rotary_emb_base partial_rotary_factor position_embedding_type original_max_position_embeddings alibi
"""
_EMBEDDINGS_AND_HEADS = """
vocab_size final_logit_softcapping logit_scale logits_scaling embedding_multiplier type_vocab_size
add_cross_attention is_decoder is_encoder_decoder
"""
_DROPOUT = """
resid_pdrop embd_pdrop hidden_dropout residual_dropout embedding_dropout dropout layerdrop pretraining_tp
rescale_prenorm_residual initializer_factor init_std chunk_size_feed_forward
"""

# Fields about the other parts of a model: of no consequence to its feed-forward sublayers.
HF_FIELDS_OUTSIDE_FEED_FORWARD = frozenset(
    (_ATTENTION + _POSITIONS + _EMBEDDINGS_AND_HEADS + _DROPOUT).split()
)
