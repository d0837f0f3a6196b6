//! `anode up --save`: what the flags say, written into the configuration file, which keeps its order and its comments (U19).

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use anode_platform::files::write_atomic;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, CommandFactory};
use toml_edit::{Array, DocumentMut, Item, Value, value};

use super::args::Cli;
use crate::Error;
use crate::config::{Config, ConfigSource};
use crate::zone::ZoneFrom;

/// Flags of `anode up` that are no keys: they say how this one run is watched.
const NOT_KEYS: [&str; 6] = [
    "config",
    "die_with_parent",
    "json",
    "save",
    "state",
    "verbose",
];

/// Keys of which the file may have one only: what is saved pushes the others out.
const EITHER: [(&str, &[&str]); 3] = [
    ("name", &["tun"]),
    ("no-tun", &["tun"]),
    ("tun", &["name", "mtu", "no-tun", "routes"]),
];

/// A configuration that is still to be written.
pub(crate) struct Unwritten {
    path: PathBuf,
    text: String,
}

impl Unwritten {
    /// Writes it.
    pub(crate) fn write(&self) -> Result<(), Error> {
        if let Some(directory) = self.path.parent() {
            std::fs::create_dir_all(directory)
                .map_err(Error::io("cannot make the directory of the configuration"))?;
        }
        // Others may read it: what is secret stands in files of its own.
        write_atomic(&self.path, self.text.as_bytes(), 0o644)?;
        Ok(())
    }
}

/// The configuration with the flags that this process was started with, and the file that says so, if it is another one.
pub(super) fn saved(source: &ConfigSource) -> Result<(Config, Option<Unwritten>), Error> {
    let Some(path) = source.path() else {
        return Err(Error::invalid(
            "--save",
            "this state directory has no configuration: name a file with --config",
        ));
    };
    let before = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            return Err(Error::invalid(
                path.display().to_string(),
                format!("cannot read the configuration: {error}"),
            ));
        }
        Ok(text) => text,
    };
    let matches = Cli::command().get_matches();
    let text = match matches.subcommand_matches("up") {
        Some(flags) => edit(&before, path, flags)?,
        None => before.clone(),
    };
    let config = Config::parse(&text, path)?;
    let path = path.to_owned();
    let unwritten = (text != before).then_some(Unwritten { path, text });
    Ok((config, unwritten))
}

/// `text` with the flags in it; refused if it is no configuration.
fn edit(text: &str, path: &Path, flags: &ArgMatches) -> Result<String, Error> {
    Config::parse(text, path)?;
    let mut document: DocumentMut = text
        .parse()
        .map_err(|error| Error::invalid(path.display().to_string(), format!("{error}")))?;
    let up = Cli::command();
    let up = up.find_subcommand("up").map(clap::Command::get_arguments);
    for argument in up.into_iter().flatten() {
        let id = argument.get_id().as_str();
        if NOT_KEYS.contains(&id) || flags.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        let key = id.replace('_', "-");
        let others = EITHER.iter().filter(|(one, _)| *one == key);
        for other in others.flat_map(|(_, others)| *others) {
            document.remove(other);
        }
        put(&mut document, &key, argument, flags)?;
    }
    Ok(document.to_string())
}

/// One flag: as a truth value, a number, a text, or a list to which peers are added.
fn put(
    document: &mut DocumentMut,
    key: &str,
    argument: &Arg,
    flags: &ArgMatches,
) -> Result<(), Error> {
    let id = argument.get_id().as_str();
    let given = flags.get_raw(id).into_iter().flatten();
    let given: Vec<String> = given
        .map(|text| written(key, text))
        .collect::<Result<_, _>>()?;
    match argument.get_action() {
        ArgAction::SetTrue => set(document, key, true.into()),
        ArgAction::Append if key == "peer" => {
            let list = document.entry(key).or_insert_with(|| value(Array::new()));
            let Some(list) = list.as_array_mut() else {
                return Ok(());
            };
            for peer in given {
                if !list.iter().any(|known| known.as_str() == Some(&peer)) {
                    list.push(peer);
                }
            }
        }
        ArgAction::Append => set(document, key, Value::Array(given.into_iter().collect())),
        _ => {
            let text = given.into_iter().next_back().unwrap_or_default();
            let is_number = matches!(key, "mtu" | "peer-id");
            match text.parse::<i64>() {
                Ok(number) if is_number => set(document, key, number.into()),
                _ => set(document, key, text.into()),
            }
        }
    }
    Ok(())
}

/// Changes a value and leaves what stands around it.
fn set(document: &mut DocumentMut, key: &str, new: Value) {
    match document.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            let decor = old.decor().clone();
            *old = new;
            *old.decor_mut() = decor;
        }
        None => {
            document.insert(key, value(new));
        }
    }
}

/// A path of the working directory would be one of the file's.
fn written(key: &str, text: &OsStr) -> Result<String, Error> {
    let text = text.to_str().ok_or_else(|| {
        Error::invalid(
            format!("--{key}"),
            "only text in UTF-8 can be written into the configuration",
        )
    })?;
    match text.parse::<ZoneFrom>() {
        Ok(from @ ZoneFrom::Path(_)) if key == "zone-file" => {
            Ok(from.relative_to(Path::new("")).to_string())
        }
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw@192.0.2.7:1";

    fn edited(text: &str, flags: &[&str]) -> Result<String, Error> {
        let words = ["anode", "up", "--save"].iter().chain(flags);
        let matches = Cli::command().try_get_matches_from(words).unwrap();
        let flags = matches.subcommand_matches("up").unwrap();
        edit(text, Path::new("x.toml"), flags)
    }

    // U19
    #[test]
    fn every_flag_of_up_is_a_key_of_the_file() {
        let up = Cli::command();
        let up = up.find_subcommand("up").unwrap().get_arguments();
        let mut keys = 0;
        for argument in up.filter(|argument| !NOT_KEYS.contains(&argument.get_id().as_str())) {
            let key = argument.get_long().unwrap();
            let text = format!("{key} = {{}}\n");
            // A table is a value of none of them: the complaint is about that, not about the key.
            let error = Config::parse(&text, Path::new("x")).unwrap_err();
            assert!(!error.to_string().contains("unknown key"), "{key}: {error}");
            keys += 1;
        }
        assert!(keys > 8, "{keys}");
    }

    // U19
    #[test]
    fn saved_flags_are_what_the_file_says_and_the_rest_of_it_stays() {
        let before = "# ours\nmtu = 1300 # why\nlog = \"info\"\n\n[lan]\nenabled = false\n";
        let flags = [
            "--mtu",
            "1400",
            "--name",
            "net0",
            "--listen",
            "192.0.2.1:1",
            "--peer",
            A,
            "--peer-id",
            "2",
            "--zone",
            "2a",
            "--zone-file",
            "/z",
            "--routes",
            "peers",
        ];
        let after = edited(before, &flags).unwrap();
        assert!(
            after.starts_with("# ours\nmtu = 1400 # why\nlog = \"info\"\n"),
            "{after}"
        );
        let config = Config::parse(&after, Path::new("x")).unwrap();
        let by_hand = format!(
            "name = \"net0\"\nmtu = 1400\nlisten = [\"192.0.2.1:1\"]\npeer = [\"{A}\"]\npeer-id = 2\nzone = \"2a\"\n\
             zone-file = \"/z\"\nroutes = \"peers\"\nlog = \"info\"\n[lan]\nenabled = false\n"
        );
        assert_eq!(config, Config::parse(&by_hand, Path::new("x")).unwrap());
        // Again, it changes nothing: peers add up, and are not told twice.
        assert_eq!(edited(&after, &flags).unwrap(), after);
    }

    #[test]
    fn what_contradicts_goes_and_a_broken_file_is_left_alone() {
        let given = edited("name = \"a\"\nmtu = 1400\n", &["--tun", "net0"]).unwrap();
        assert_eq!(given, "tun = \"net0\"\n");
        assert_eq!(edited(&given, &["--no-tun"]).unwrap(), "no-tun = true\n");
        let error = edited("mtu = 1\n", &["--name", "a"]).unwrap_err();
        assert!(error.to_string().starts_with("x.toml:1: "), "{error}");
    }
}
