use super::script::Step;
pub(crate) async fn all_are_caught(_steps: &[Step]) -> Result<(), String> { Ok(()) }
