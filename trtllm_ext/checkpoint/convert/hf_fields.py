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
