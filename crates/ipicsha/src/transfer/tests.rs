//! Both sides over real connections, and each against another side that does not behave.
