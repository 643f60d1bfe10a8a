//! The two functions that transformers gives to a template.

use minijinja::{Environment, Error, ErrorKind};

pub fn install(environment: &mut Environment<'static>) {
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("the template refuses the conversation: {message}")))
}

/// datetime.now().strftime(format): local time, by the C library as in Python.
fn strftime_now(format: String) -> Result<String, Error> {
    let invalid = |what: &'static str| Error::new(ErrorKind::InvalidOperation, what);
    let pattern = std::ffi::CString::new(format.as_str()).map_err(|_| invalid("strftime_now: NUL in the format"))?;
    let mut out = vec![0u8; 256 + 64 * format.len().min(1024)];
    // SAFETY: both calls write only into the struct and the buffer they are given; the pattern ends with NUL.
    let length = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut parts: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&now, &mut parts).is_null() {
            return Err(invalid("strftime_now: no local time"));
        }
        libc::strftime(out.as_mut_ptr().cast(), out.len(), pattern.as_ptr(), &parts)
    };
    if length == 0 && !format.is_empty() {
        return Err(invalid("strftime_now: the format gives nothing, or too much"));
    }
    out.truncate(length);
    String::from_utf8(out).map_err(|_| invalid("strftime_now: not UTF-8"))
}
