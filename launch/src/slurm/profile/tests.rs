//! The profiles that come with the program, and mistakes in others.

use tisserand_runtime::plan::machine::Machine;

use super::*;

#[test]
fn every_profile_is_understood_and_names_a_planner() {
    for (name, text) in PROFILES {
        let profile = Profile::parse(name, text).unwrap();
        if profile.refused.is_some() {
            let refusal = Profile::load(name).unwrap_err();
            assert!(refusal.to_string().contains("HIP: not yet") && refusal.exit_code() == 2, "{refusal}");
            continue;
        }
        assert!(profile.restart.is_some() && profile.signal_lead_s.is_some(), "{name}");
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(&profile.page);
        assert!(page.exists(), "{name}: {}", profile.page);
        if name != "generic" {
            let planner = Machine::load(&profile.planner.unwrap().value).unwrap();
            assert_eq!(Some(planner.node.gpus), profile.ranks_per_node.map(|fact| fact.value), "{name}");
            assert!(!profile.qos.is_empty() && profile.cpus_per_task.is_some(), "{name}");
        }
    }
}

/// Nobody has run a job on these machines yet: whoever does, changes this test with the date.
#[test]
fn only_what_ran_is_called_verified() {
    for (name, text) in PROFILES {
        let profile = Profile::parse(name, text).unwrap();
        let verified = profile.sources.values().filter(|source| source.starts_with("verified"));
        assert_eq!(verified.count(), usize::from(name == "generic"), "{name}");
    }
}

#[test]
fn mistakes_are_refused_in_one_line_with_the_nearest_key() {
    let right = "machine = \"M\"\npage = \"P\"\n[sources]\ns = \"assumed: by me\"\n\
                 [[sbatch]]\nname = \"exclusive\"\nwhy = \"w\"\nfrom = \"s\"\n";
    Profile::parse("own", right).unwrap();
    for (from, to, fragments) in [
        ("page", "pages", &["line 2", "unknown key pages", "did you mean page?"][..]),
        ("why = ", "wy = ", &["unknown key wy", "did you mean why?"]),
        ("from = \"s\"", "from = \"t\"", &["from = \"t\"", "[sources]"]),
        ("assumed: ", "I think: ", &["sources.s", "documentation:"]),
        ("\"exclusive\"", "\"a b\"", &["name = \"a b\""]),
        ("[sources]", "ranks_per_node = 4\n[sources]", &["line 3"]),
        (
            "[sources]",
            "restart = { value = \"maybe\", why = \"w\", from = \"s\" }\n[sources]",
            &["maybe", "requeue"],
        ),
        (
            "[sources]",
            "time = { value = \"1h\", why = \"w\", from = \"s\" }\n[sources]",
            &["\"1h\"", "20:00:00"],
        ),
        ("machine = \"M\"\n", "", &["machine"]),
        ("[[sbatch]]", "[[sbatch]", &["line 5"]),
    ] {
        let refusal = Profile::parse("own", &right.replace(from, to)).unwrap_err();
        let line = refusal.to_string();
        assert!(line.starts_with("profile own") && !line.contains('\n'), "{line}");
        assert!(fragments.iter().all(|fragment| line.contains(fragment)), "{line}");
    }
    let refusal = Profile::load("jeanzay-h10").unwrap_err().to_string();
    assert!(refusal.contains("did you mean jeanzay-h100?"), "{refusal}");
}
