//! Every reason has its page, and every page its reason.

use std::collections::BTreeSet;

use operator::cluster::Reason;

use super::support::root;

#[test]
fn every_reason_has_a_page() -> anyhow::Result<()> {
    let folder = root().join("docs/conditions");
    let mut pages: BTreeSet<String> = std::fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<std::io::Result<_>>()?;
    assert!(pages.remove("README.md"), "an index");
    let wanted: BTreeSet<String> = Reason::ALL.iter().map(|reason| format!("{reason}.md")).collect();
    assert_eq!(pages, wanted);
    let index = std::fs::read_to_string(folder.join("README.md"))?;
    for reason in Reason::ALL {
        let page = std::fs::read_to_string(folder.join(format!("{reason}.md")))?;
        assert!(page.starts_with(&format!("# {reason}\n")) && page.contains("**What to do:**"), "{reason}");
        assert!(index.contains(&format!("[{reason}]({reason}.md)")), "{reason} is not in the index");
    }
    Ok(())
}
