//! Rules, as a version defines them: what has to be there beside them.

use super::*;

impl Bench {
    /// What is wrong with a version that defines this; nothing where it can be used.
    fn astray(&self, texts: &[(&str, &str)]) -> Option<String> {
        let source = tempfile::tempdir().unwrap();
        write(source.path(), &[("a", "1")]);
        let texts = texts.iter().map(|(name, text)| (path(name), (*text).to_owned())).collect();
        let made = Made { texts, ..Made::default() };
        let root = self.content.stage(source.path(), &[], &made).unwrap().root;
        self.content.defined_by(&root).unwrap().err().map(|wrong| wrong.why)
    }
}

#[test]
fn what_rules_need_has_to_be_there() {
    let bench = Bench::new();
    let rules = ".althing/rules.toml";
    let hook = "[rules]\nhot = \"when cpu > 90% then webhook pager\"\n\n\
                [webhook.pager]\nurl = \"https://pager.example.org/\"\n";
    assert_eq!(bench.astray(&[(rules, hook)]), None);
    let signed = format!("{hook}sign = \"pager-key\"\n");
    assert_eq!(
        bench.astray(&[(rules, &signed)]).as_deref(),
        Some(
            "webhook pager needs the secret pager-key, which is not set: set it first, with \
             `althing secret set APP pager-key`"
        )
    );
    let script = "[script.tidy]\nrun = [\"bin/tidy\"]\n";
    let given = format!("{script}secrets = [\"key\"]\n");
    let wrong = bench.astray(&[(rules, &given)]).unwrap();
    assert!(wrong.starts_with("script tidy is to be given the secret key"), "{wrong}");
    let service = (".althing/services.toml", "[services.tidy]\nrun = [\"bin/a\"]\n");
    assert_eq!(
        bench.astray(&[(rules, script), service]).as_deref(),
        Some(
            "script tidy has the name of a service or a hook, and they would share one log: give \
             the script another name"
        )
    );
    let unknown = bench.astray(&[(rules, "[rules]\nhot = \"when\"\n")]).unwrap();
    assert!(unknown.starts_with(".althing/rules.toml can't be used: The rule hot"), "{unknown}");
}
