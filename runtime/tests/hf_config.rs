//! `config.json` files of the library's releases: read, written, refused.

use std::path::Path;

use serde_json::{Value, json};
use tisserand_kernels::DType;
use tisserand_runtime::Result;
use tisserand_runtime::hf_config::{SpecialTokens, parse, read, write};
use tisserand_runtime::model_config::{Architecture, ModelConfig, RopeScaling};

/// The least that a file of the family has, with `more` on top.
fn file(family: &str, more: Value) -> Value {
    let mut file = json!({
        "model_type": family,
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    });
    for (key, value) in more.as_object().unwrap() {
        file[key] = value.clone();
    }
    file
}

fn model(file: &Value) -> Result<ModelConfig> {
    parse(file.to_string().as_bytes(), "m/config.json")
}

#[test]
fn the_fixtures_are_read() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let llama = read(&fixtures.join("llama-tiny")).unwrap();
    assert_eq!((llama.architecture, llama.head_dim, llama.norm_eps), (Architecture::Llama, 16, 1e-5));
    assert_eq!((llama.max_position_embeddings, llama.rope_theta), (128, 1e4));
    let qwen3 = read(&fixtures.join("qwen3-tiny/config.json")).unwrap();
    assert!(qwen3.qk_norm && !qwen3.qkv_bias && qwen3.windows == [None, None]);
}

#[test]
fn absent_keys_have_the_defaults_of_their_family() {
    let without = |family: &str, keys: &[&str]| {
        let mut file = file(family, json!({}));
        keys.iter().for_each(|key| drop(file.as_object_mut().unwrap().remove(*key)));
        model(&file)
    };
    let llama = without("llama", &["num_key_value_heads", "head_dim"]).unwrap();
    assert_eq!((llama.num_kv_heads, llama.head_dim, llama.norm_eps), (4, 16, 1e-6));
    assert_eq!((llama.rope_theta, llama.max_position_embeddings, llama.init.std), (1e4, 2048, 0.02));
    assert!(!llama.tie_embeddings && !llama.qkv_bias && !llama.mlp_bias);
    let mistral = without("mistral", &[]).unwrap();
    assert_eq!((mistral.windows, mistral.max_position_embeddings), (vec![Some(4096); 4], 131_072));
    let qwen2 = without("qwen2", &[]).unwrap();
    assert_eq!((qwen2.qkv_bias, qwen2.output_bias, qwen2.windows), (true, false, vec![None; 4]));
    assert_eq!(without("qwen3", &["head_dim"]).unwrap().head_dim, 128);
    let null = file("llama", json!({ "num_key_value_heads": null, "head_dim": null }));
    assert_eq!(model(&null).unwrap().num_kv_heads, 4);
}

#[test]
fn all_spellings_of_rotary_parameters_are_read() {
    let llama3 = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 8192 });
    let mut with_theta = llama3.clone();
    with_theta["rope_theta"] = json!(5e5);
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let linear = RopeScaling::Linear { factor: 2.0 };
    let cases = [
        (json!({ "rope_theta": 5e5, "rope_scaling": llama3 }), 5e5, scaling),
        (json!({ "rope_parameters": with_theta }), 5e5, scaling),
        (json!({ "rope_theta": 5e5, "rope_scaling": llama3, "rope_parameters": with_theta }), 5e5, scaling),
        (json!({ "rope_scaling": { "type": "linear", "factor": 2 } }), 1e4, linear),
        (
            json!({ "rope_parameters": { "type": "linear", "rope_type": "linear", "factor": 2.0, "rope_theta": 7 } }),
            7.0,
            linear,
        ),
        (json!({ "rope_scaling": null, "rope_theta": 1e6 }), 1e6, RopeScaling::None),
        (
            json!({ "rope_scaling": null, "rope_theta": 1e6, "rope_parameters": { "rope_type": "default" } }),
            1e6,
            RopeScaling::None,
        ),
        (json!({ "rope_scaling": {}, "partial_rotary_factor": 1.0 }), 1e4, RopeScaling::None),
    ];
    for (keys, theta, scaling) in cases {
        let model = model(&file("llama", keys.clone())).unwrap_or_else(|error| panic!("{keys}: {error}"));
        assert_eq!((model.rope_theta, model.rope_scaling), (theta, scaling), "{keys}");
    }
    let beside = json!({ "rope_scaling": { "rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4 },
                         "max_position_embeddings": 4096 });
    let RopeScaling::Llama3 { original_max_position_embeddings, .. } =
        model(&file("llama", beside)).unwrap().rope_scaling
    else {
        panic!("not llama3")
    };
    assert_eq!(original_max_position_embeddings, 4096);
}

#[test]
fn windows_follow_the_family() {
    let windows = |family, keys| model(&file(family, keys)).unwrap().windows;
    assert_eq!(windows("mistral", json!({ "sliding_window": 8 })), [Some(8); 4]);
    assert_eq!(windows("mistral", json!({ "sliding_window": null })), [None; 4]);
    assert_eq!(windows("qwen2", json!({ "sliding_window": 8, "use_sliding_window": false })), [None; 4]);
    let partial = json!({ "sliding_window": 8, "use_sliding_window": true, "max_window_layers": 3 });
    assert_eq!(windows("qwen2", partial.clone()), [None, None, None, Some(8)]);
    assert_eq!(windows("qwen3", partial), [None, None, None, Some(8)]);
    let typed = json!({ "sliding_window": 8, "use_sliding_window": true, "max_window_layers": 0,
        "layer_types": ["sliding_attention", "full_attention", "attention", "sliding_attention"] });
    assert_eq!(windows("qwen3", typed), [Some(8), None, None, Some(8)]);
}

#[test]
fn what_is_written_is_read_as_the_same_model() {
    let qwen_windows = json!({ "sliding_window": 8, "use_sliding_window": true,
        "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"] });
    let files = [
        file("llama", json!({})),
        file(
            "llama",
            json!({ "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": true, "head_dim": 8 }),
        ),
        file(
            "llama",
            json!({ "rope_theta": 5e5, "rope_scaling": { "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64 }, "max_position_embeddings": 512 }),
        ),
        file("mistral", json!({})),
        file(
            "mistral",
            json!({ "sliding_window": null, "rope_scaling": { "type": "linear", "factor": 4.0 } }),
        ),
        file("qwen2", qwen_windows.clone()),
        file("qwen2", json!({ "rms_norm_eps": 1e-6 })),
        file("qwen3", qwen_windows),
        file("qwen3", json!({ "attention_bias": true, "initializer_range": 0.5 })),
    ];
    for file in files {
        let first = model(&file).unwrap();
        let special = SpecialTokens { bos: Some(1), eos: None };
        let written = write(&first, DType::Bf16, special).unwrap();
        assert_eq!(model(&written).unwrap(), first, "{written}");
        assert_eq!((&written["dtype"], &written["bos_token_id"]), (&json!("bfloat16"), &json!(1)));
        assert_eq!(written["eos_token_id"], Value::Null);
    }
    let mut impossible = model(&file("mistral", json!({}))).unwrap();
    impossible.windows[0] = None;
    assert!(write(&impossible, DType::F32, SpecialTokens::default()).is_err());
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let cases = [
        ("gpt2", json!({}), "model_type = \"gpt2\", expected \"llama\", \"mistral\", \"qwen2\" or \"qwen3\""),
        ("llama", json!({ "model_type": null }), "model_type is missing"),
        ("llama", json!({ "hidden_act": "gelu" }), "hidden_act = \"gelu\" is not supported"),
        ("llama", json!({ "attention_dropout": 0.1 }), "attention_dropout = 0.1 is not supported"),
        ("llama", json!({ "pretraining_tp": 2 }), "pretraining_tp = 2 is not supported"),
        ("llama", json!({ "partial_rotary_factor": 0.5 }), "partial_rotary_factor = 0.5"),
        (
            "llama",
            json!({ "rope_parameters": { "partial_rotary_factor": 0.5 } }),
            "rope_parameters: partial_rotary_factor = 0.5",
        ),
        ("llama", json!({ "quantization_config": { "bits": 4 } }), "quantization_config = {\"bits\":4}"),
        ("llama", json!({ "per_layer_config": { "0": {} } }), "per_layer_config"),
        (
            "llama",
            json!({ "rope_scaling": { "rope_type": "yarn", "factor": 4.0, "beta_fast": 32 } }),
            "rope_scaling: rope_type = \"yarn\" is not supported",
        ),
        (
            "llama",
            json!({ "rope_scaling": { "type": "dynamic", "factor": 4.0 } }),
            "rope_scaling: type = \"dynamic\"",
        ),
        (
            "llama",
            json!({ "rope_scaling": { "rope_type": "longrope", "long_factor": [] } }),
            "\"longrope\" is not supported",
        ),
        (
            "llama",
            json!({ "rope_scaling": { "rope_type": "linear", "type": "llama3", "factor": 2 } }),
            "they must be equal",
        ),
        ("llama", json!({ "rope_scaling": { "rope_type": "linear" } }), "rope_scaling: factor is missing"),
        (
            "llama",
            json!({ "rope_scaling": { "factor": 2 } }),
            "factor = 2: it has no effect without a rope_type",
        ),
        ("llama", json!({ "rope_scaling": "linear" }), "rope_scaling = \"linear\", expected an object"),
        ("llama", json!({ "rope_theta": 1e4, "rope_parameters": { "rope_theta": 5e5 } }), "rope_theta"),
        ("qwen2", json!({ "rope_scaling": { "type": "default", "mrope_section": [16] } }), "mrope_section"),
        (
            "qwen3",
            json!({ "rope_parameters": { "full_attention": { "rope_theta": 1e4 } } }),
            "rope_parameters: full_attention",
        ),
        ("llama", json!({ "rope_theta": -1 }), "rope_theta = -1, expected a positive number"),
        ("llama", json!({ "sliding_window": 8 }), "sliding_window = 8: llama has no sliding window"),
        ("mistral", json!({ "sliding_window": 0 }), "sliding_window = 0, expected a positive integer"),
        (
            "mistral",
            json!({ "sliding_window": 8, "layer_types": ["full_attention", "full_attention", "full_attention", "full_attention"] }),
            "layer_types",
        ),
        (
            "qwen2",
            json!({ "layer_types": ["sliding_attention", "full_attention", "full_attention", "full_attention"] }),
            "use_sliding_window = false",
        ),
        (
            "qwen3",
            json!({ "layer_types": ["chunked_attention", "full_attention", "full_attention", "full_attention"] }),
            "layer_types",
        ),
        ("qwen3", json!({ "layer_types": ["full_attention"] }), "1 entries for num_hidden_layers = 4"),
        (
            "mistral",
            json!({ "attention_bias": true }),
            "attention_bias = true is not supported, only false in mistral",
        ),
        ("qwen3", json!({ "mlp_bias": true }), "mlp_bias = true: qwen3 has no biases"),
        (
            "llama",
            json!({ "num_key_value_heads": 3 }),
            "num_key_value_heads = 3: 3 does not divide num_attention_heads = 4",
        ),
        ("llama", json!({ "head_dim": 15 }), "head_dim = 15: 15 is odd"),
        (
            "llama",
            json!({ "hidden_size": 66 }),
            "num_attention_heads = 4: 4 does not divide hidden_size = 66",
        ),
        ("llama", json!({ "hidden_size": "64" }), "hidden_size = \"64\", expected a positive integer"),
        ("llama", json!({ "hidden_size": null }), "hidden_size is missing"),
        ("llama", json!({ "vocab_size": 0 }), "vocab_size = 0, expected a positive integer"),
        (
            "llama",
            json!({ "vocab_size": 3e9 as u64 }),
            "vocab_size = 3000000000, expected an integer from 1 to",
        ),
        ("llama", json!({ "rms_norm_eps": 0 }), "rms_norm_eps = 0, expected a positive number"),
        (
            "llama",
            json!({ "tie_word_embeddings": "yes" }),
            "tie_word_embeddings = \"yes\", expected true or false",
        ),
    ];
    for (family, keys, expected) in cases {
        let error = model(&file(family, keys.clone())).expect_err(expected);
        let message = error.to_string();
        assert_eq!(error.exit_code(), 2);
        assert!(message.starts_with("m/config.json") && message.contains(expected), "{keys}: {message}");
    }
}

#[test]
fn files_that_are_no_configs_are_named() {
    let message = |bytes: &[u8]| parse(bytes, "config.json").unwrap_err().to_string();
    assert!(message(b"{\n\"a\": }").starts_with("config.json:2: not valid JSON"));
    assert!(message(b"[]").contains("expected a JSON object"));
    assert!(message(&[0xff, 0]).contains("not valid JSON"));
    assert!(message(b"").contains("not valid JSON"));
    let absent = read(Path::new("nowhere/config.json")).unwrap_err().to_string();
    assert!(absent.starts_with("cannot read nowhere/config.json: "), "{absent}");
}
