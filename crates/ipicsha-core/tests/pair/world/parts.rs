//! What both servers of the simulated pair are made of.

use ipicsha_core::{
    config::PairName,
    id::ServerId,
    license::{Feature, License},
    trust::Partner,
};

pub(super) fn license(feature: Feature) -> License {
    License { feature, issued_to: "sim".into(), serial: "1".into(), expires: None }
}

pub(super) fn partner(index: usize) -> Partner {
    Partner {
        server: ServerId(index as u64 + 1),
        name: ["alpha", "bravo"][index].into(),
        address: "sim".into(),
        certificate: vec![],
        next_certificate: None,
    }
}

pub(crate) fn pair_name() -> PairName {
    PairName::try_from("sim".to_owned()).expect("a valid name")
}
