//! Tables of configurations that must be refused, for the tests of all sections.

use std::path::Path;

use super::Config;

/// The text, the place that the message must hold, and a part of it.
pub(crate) type Case<'a> = (&'a str, &'a str, &'a str);

/// What no message may quote.
const SECRETS: [&str; 2] = ["hunter2", "87654321"];

/// Each is refused with exit status 2, in one line that begins with the file, names the place, and shows no password.
#[track_caller]
pub(crate) fn refused(cases: &[Case<'_>]) {
    for (text, place, part) in cases {
        let error = Config::parse(text, Path::new("/x/anode.toml")).expect_err(text);
        let message = error.to_string();
        assert_eq!(error.exit_status(), 2, "{text}");
        assert!(
            message.starts_with("/x/anode.toml"),
            "{text:?} gave {message:?}"
        );
        assert!(
            message.contains(place) && message.contains(part),
            "{text:?} gave {message:?}"
        );
        assert!(!message.contains('\n'), "{message:?}");
        assert!(
            !SECRETS.iter().any(|secret| message.contains(secret)),
            "{message}"
        );
    }
}
