//! Reads the files that are shipped beside the binary: Dockerfile, YAML, and the chart as helm renders it.

use crate::support::{process::Process, shell::Shell, skip::skip};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Command, Output},
};

/// The secrets that can also be given as files, by variables that end with `_FILE`.
const SECRETS: [&str; 4] =
    ["DATABASE_URL", "CLERK_WEBHOOK_SIGNING_SECRET", "CLERK_SECRET_KEY", "ENTITLEMENTS_KEY"];

/// Reads a file of this repository.
pub fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Parses all documents of a YAML text.
pub fn documents(text: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    all.into_iter().filter(|document| !document.is_null()).collect()
}

/// Returns the only element, and fails if there are several.
pub fn the(mut all: Vec<Value>) -> Value {
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// Interpolates as Compose does: `${NAME:-default}` becomes the default, `${NAME:?why}` becomes empty.
pub fn interpolate(text: &str) -> String {
    let Some((before, rest)) = text.split_once("${") else { return text.to_owned() };
    let (inside, after) = rest.split_once('}').unwrap();
    let default = inside.split_once(":-").map_or("", |(_, default)| default);
    format!("{before}{default}{}", interpolate(after))
}

/// The image that the Dockerfile builds.
pub struct Image {
    /// The instructions of the last stage, with their arguments.
    instructions: Vec<(String, String)>,
    /// The variables that `ENV` sets.
    pub variables: BTreeMap<String, String>,
}

impl Image {
    pub fn read() -> Self {
        let text = file("Dockerfile").replace("\\\n", " ");
        let last = &text[text.rfind("\nFROM ").unwrap() + 1..];
        let lines = last.lines().filter(|line| !line.starts_with('#'));
        let instructions: Vec<_> = lines
            .filter_map(|line| line.split_once(' '))
            .map(|(name, rest)| (name.to_owned(), rest.trim().to_owned()))
            .collect();
        let mut image = Self { instructions, variables: BTreeMap::new() };
        let pairs = image.words("ENV").map(|pair| pair.split_once('=').unwrap());
        image.variables = pairs.map(|(name, value)| (name.into(), value.into())).collect();
        image
    }

    /// The arguments of each instruction of this name.
    pub fn arguments(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.instructions.iter().filter(move |(found, _)| found == name);
        named.map(|(_, rest)| &**rest)
    }

    /// The words of all instructions of this name.
    pub fn words(&self, name: &str) -> impl Iterator<Item = &str> {
        self.arguments(name).flat_map(str::split_whitespace)
    }

    /// The JSON list that is the argument of an instruction.
    pub fn list(&self, name: &str) -> Vec<String> {
        let (_, rest) = self.instructions.iter().find(|(found, _)| found == name).unwrap();
        serde_json::from_str(&rest[rest.find('[').unwrap()..]).unwrap()
    }

    /// The numeric id of the user that the image runs as.
    pub fn user(&self) -> Option<u32> {
        self.words("USER").next()?.split(':').next()?.parse().ok()
    }

    /// The listening ports, by their names in the chart: `api`, `webhook`, `operator`.
    pub fn ports(&self) -> BTreeMap<String, u64> {
        let listeners = self.variables.iter().filter_map(|(name, address)| {
            let name = name.strip_prefix("ENTITLEMENTS_")?.strip_suffix("_LISTEN")?.to_lowercase();
            let port = address.strip_prefix("0.0.0.0:").unwrap().parse().unwrap();
            Some((name, port))
        });
        listeners.collect()
    }

    /// A container of the image without further settings.
    pub fn container(&self) -> Container {
        Container { arguments: self.list("CMD"), variables: self.variables.clone() }
    }
}

/// A container as a manifest configures it.
pub struct Container {
    arguments: Vec<String>,
    /// The variables that the manifest sets; empty where the value comes from a secret.
    pub variables: BTreeMap<String, String>,
}

impl Container {
    pub fn of_compose(service: &Value, image: &Image) -> Self {
        let text = |value: &Value| interpolate(value.as_str().unwrap());
        let variables = service["environment"].as_object().into_iter().flatten();
        let arguments = strings(&service["command"]).unwrap_or_else(|| image.list("CMD"));
        Self {
            arguments: arguments.iter().map(|word| interpolate(word)).collect(),
            variables: variables.map(|(name, value)| (name.clone(), text(value))).collect(),
        }
    }

    pub fn of_pod(pod: &Value, image: &Image) -> Self {
        let container = &pod["containers"][0];
        let variables = container["env"].as_array().unwrap().iter().map(|variable| {
            let value = variable["value"].as_str().unwrap_or_default();
            assert_ne!(value.is_empty(), variable["valueFrom"].is_null(), "{variable}");
            (variable["name"].as_str().unwrap().to_owned(), value.to_owned())
        });
        let (count, variables) = (variables.len(), variables.collect::<BTreeMap<_, _>>());
        assert_eq!(variables.len(), count, "a variable is set twice");
        let arguments = strings(&container["args"]).unwrap_or_else(|| image.list("CMD"));
        Self { arguments, variables }
    }

    /// The container with its folder `from` at `to`, and with another database.
    pub fn at(&self, from: &str, to: &Path, database: &str) -> Self {
        let moved = |text: &String| text.replace(from, &to.display().to_string());
        let arguments = self.arguments.iter().map(moved).collect();
        let variables = self.variables.iter().map(|(name, value)| (name.clone(), moved(value)));
        let mut variables: BTreeMap<_, _> = variables.collect();
        if let Some(url) = variables.get_mut("DATABASE_URL") {
            database.clone_into(url);
        }
        Self { arguments, variables }
    }

    /// Runs the container to its end; returns the exit code and all output.
    pub fn run(&self) -> (i32, String) {
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        self.exec(&arguments)
    }

    /// Runs a command with the variables of the container, as `docker compose exec` does.
    pub fn exec(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_entitlements"));
        command.args(arguments).env_clear().envs(&self.variables);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap_or(-1), text(stdout) + &text(stderr))
    }

    /// Starts `serve` on a database with the variables of the image and of the container, without those `left_out`. It
    /// listens on loopback addresses.
    pub async fn serve(&self, image: &Image, database: &str, left_out: &[&str]) -> Process {
        let mut variables = image.variables.clone();
        variables.extend(self.variables.clone());
        variables.retain(|name, _| !name.ends_with("_LISTEN") && !left_out.contains(&&**name));
        let variables: Vec<_> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
        Process::start(database, &variables).await
    }

    /// The subcommand that the container runs.
    pub fn command(&self) -> &str {
        &self.arguments[0]
    }

    /// Checks that each variable is a setting of the container's command, or of one of the `others`.
    pub async fn check_settings(&self, others: &[&str]) {
        let mut known = settings(self.command()).await;
        for other in others {
            known.extend(settings(other).await);
        }
        for name in self.variables.keys() {
            let secret = name.strip_suffix("_FILE").filter(|name| SECRETS.contains(name));
            let setting = secret.unwrap_or(name);
            assert!(known.contains(setting), "{name} is no setting of `{}`", self.command());
        }
    }

    /// The files that the container's variables name, each with its variable.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        let files = self.variables.iter().filter(|(_, value)| value.starts_with('/'));
        files.map(|(name, value)| (value.as_str(), name.as_str()))
    }
}

/// The variables of a subcommand, from its `--help`.
pub async fn settings(command: &str) -> BTreeSet<String> {
    let (code, help, _) = Shell::new(&[("COLUMNS", "1000")]).run(&[command, "--help"]).await;
    assert_eq!(code, 0, "`entitlements {command}` is no command");
    let named = help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next());
    named.map(str::to_owned).collect()
}

/// The pod's ports by name.
pub fn ports(pod: &Value) -> BTreeMap<String, u64> {
    let ports = pod["containers"][0]["ports"].as_array().unwrap().iter();
    let named = ports.map(|port| {
        (port["name"].as_str().unwrap().into(), port["containerPort"].as_u64().unwrap())
    });
    named.collect()
}

/// Whether the pod mounts a volume at this path.
pub fn mounts(pod: &Value, path: &str) -> bool {
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let volumes = pod["volumes"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["mountPath"] == path);
    mount.is_some_and(|mount| volumes.iter().any(|volume| volume["name"] == mount["name"]))
}

fn strings(list: &Value) -> Option<Vec<String>> {
    Some(list.as_array()?.iter().map(|word| word.as_str().unwrap().to_owned()).collect())
}

/// The chart as helm renders it, or helm's error.
pub struct Chart {
    objects: Vec<Value>,
    pub refusal: String,
}

/// Renders the chart; `None`: helm is not installed, and the test is skipped.
pub fn chart(values: &[&str], catalog: Option<&str>) -> Option<Chart> {
    let mut helm = Command::new("helm");
    helm.args(["template", "billing", "deploy/helm/entitlements"]);
    helm.current_dir(env!("CARGO_MANIFEST_DIR"));
    helm.args(values.iter().flat_map(|value| ["--set", value]));
    if let Some(file) = catalog {
        helm.args(["--set-file", &format!("catalog={file}")]);
    }
    let Ok(output) = helm.output() else {
        skip("helm is not installed (.ci/helm fetches it)");
        return None;
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let objects = documents(&text(&output.stdout));
    Some(Chart { objects, refusal: text(&output.stderr) })
}

impl Chart {
    /// All objects of a kind.
    pub fn all(&self, kind: &str) -> Vec<&Value> {
        self.objects.iter().filter(|object| object["kind"] == kind).collect()
    }

    /// The only object of a kind.
    pub fn one(&self, kind: &str) -> &Value {
        let all = self.all(kind);
        assert_eq!(all.len(), 1, "{kind}: {}", self.refusal);
        all[0]
    }

    /// The object of this kind and name.
    pub fn named(&self, kind: &str, name: &str) -> &Value {
        let mut all = self.all(kind).into_iter();
        let found = all.find(|object| object["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("no {kind} {name}: {}", self.refusal))
    }
}
